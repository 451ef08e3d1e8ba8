mod device;
mod table;
